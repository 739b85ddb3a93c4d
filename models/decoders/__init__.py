"""From a file's bytes to pixels that are understood: a module for each format that needs one.

Each reads the header itself, and refuses what it does not know before a decoder sees the file. Of
JPEG, PNG and TIFF, a decoder gets no more than the pixels and how to read them: metadata can
neither break a picture nor fill the memory or the log.
"""
