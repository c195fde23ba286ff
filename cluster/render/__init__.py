"""Renderers: from a topology to the text of files. Pure: same input, same text, byte for byte."""
