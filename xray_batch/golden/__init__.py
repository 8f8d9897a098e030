"""The golden-image kit of `xray-batch selftest`: one film, stored in every way that is read, and files to be refused.

A site runs it on its own installation: the real decode workers, the decoders that are installed, the bundle in use.
`golden.json` says what each file shows, who encoded it, and what must come out; `README.md` beside it tells where the
film is from.  Each file of this package does one step::

    kit           reads golden.json and the film, without any code of the decode stage
    rendering     decodes every file and compares the pixels with the film
    probability   classifies every file and compares P(pneumonia) with the film's
"""
