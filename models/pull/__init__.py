"""Models from repositories: what lies there says how pictures and words are prepared.

known.py      names of models that are offered
address.py    what the user named: a repository, a folder
hub.py        what a repository has; its files, fetched and checked
layout.py     which of its files are the graphs, and which say how to use them
pixels.py     what is done to a picture
words.py      what is done to words: the tokenizer
graphs.py     what a graph takes and gives
towers.py     all of it in the one form
"""
