import sys

SAID = "[  0.001 s] Build completed successfully"

for end in ("\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\0"):
    sys.stdout.write(end + SAID)
sys.stdout.flush()
raise ValueError("failed after all")
