"""`make bench`: how fast, each figure beside the floor or the rival it is to be compared with, in one run."""
