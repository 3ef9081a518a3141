"""The mathematics and the instruments of the AWQ claims suite: a library without pytest, printing or paths."""
