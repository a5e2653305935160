"""The reader: what was uploaded is opened by a process that can do nothing else.

Theory of operation. Archives and manifests are read by zlib, PyYAML and readers of our own. Should
one of them have a hole, whoever uploads could run code where it is read; so that is not the server.
With the first upload the server starts one small process, the **reader**: it imports all that
reading needs, holds no secret, and never sees an upload's byte. It is ended when idle. For each
**reading** it forks twice: a **guard**, which keeps the deadline, and the fork that confines itself
and then reads.

    server process                 reader               guard               reading (one each)
    Reader.unpack() --control----> waits --fork-------> waits --fork------> walls; the archive
           ^   ^                                          |                   |   |
           |   `-- lease: how it ended; hung up: kill ----'                   |   files
           `------ answer: one JSON document, hostile ------------------------'

No path travels: the archive is a descriptor open for reading, the target an empty folder's. The
chain of parents holds downwards: a dead server hangs up on the reader, and whoever loses its parent
in it is killed by the kernel.

`in_server` is trusted and holds secrets; `in_reader` is trusted and holds none; `in_reading` is
trusted until it touches the archive and hostile after. `answer` is what it says, and how the server
takes it.
"""
