"""A stack that has no file yet: what a project's files say, what is chosen of it, and the text that says so."""
