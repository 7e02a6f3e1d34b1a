"""The repair of a cut student: the layers beside each cut learn what the missing layers did."""
