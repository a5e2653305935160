HOARD = []
while True:
    HOARD.append(bytearray(1 << 20))
