import os

os.environ["HOSTILE_STARTED"] = "1"
