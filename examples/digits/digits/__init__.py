"""Hand-written digits, 8×8 pixels each: which one is it? The smallest whole service."""
