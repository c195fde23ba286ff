"""A stack that is opened: its file, its secrets and their rotation, the lint gate."""
