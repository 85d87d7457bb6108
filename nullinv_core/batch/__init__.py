"""Many pictures, one command: a list of jobs, what is computed together, and a journal that survives every stop.

``jobs`` reads what is to be done, ``plan`` says what goes through the network together, ``compute`` does it,
``cluster`` does it on many machines, ``journal`` keeps what is done, ``run`` brings these together and ``manifest``
lists what came out. What stands in a list is data of strangers and is checked before anything is loaded.
"""
