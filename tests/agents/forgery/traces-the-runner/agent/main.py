import sys


def trace(frame, event, argument):
    return trace


def handle(payload):
    frame = sys._getframe()
    while frame is not None:
        frame.f_trace = trace
        frame = frame.f_back
    sys.settrace(trace)
    sys.setprofile(lambda *_: None)
    return {"achieved": [], "tried": ["tracing"]}
