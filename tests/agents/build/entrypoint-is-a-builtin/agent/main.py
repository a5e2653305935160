handle = memoryview(b"").__class__
