"""The sandbox: agent code runs in a forked process that has shut itself in.

Theory of operation. The server starts one **zygote**: a small, single-threaded process of the
standard library alone that holds no secret. For each **job** the server opens a socket pair, the
**lease**, and passes its other end to the zygote together with three descriptors: where the child
reports, where it logs, and what it reads its job from. The zygote forks; the **child** applies the
layers in order, imports the entrypoint, calls it, and writes one JSON frame. The zygote reads none
of that: the server does, in one bounded function. Whichever end of the lease hangs up, the job is
killed with all its descendants, so a dead server leaves no orphans; so it is at the deadline, which
the zygote keeps and the server checks again.

    server process                    zygote                     child (one per job)
    supervisor.run(job) --lease-----> main loop --fork---------> layers, then the agent's code
           ^   ^   \\                                                |        |
           |   |    `--- job, payload (read once) ------------------+        |
           |   `-------- log: stdout and stderr, kept head and tail ---------+
           `------------ report: one length-prefixed JSON frame -------------+

Where the machine has namespaces, a **stub** between the two makes them, forks the zygote as the
first process in them, and watches over it; each run then has mounts, ids and processes of its own.

Each folder is named by the process that runs it: `in_server` is trusted and holds secrets;
`in_zygote` is trusted and holds none; `in_child` is trusted until it imports the entrypoint and
hostile after. `policy` and `protocol` are what they share. Only the standard library is used.
"""
