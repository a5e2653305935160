handle = {"call": "me"}
