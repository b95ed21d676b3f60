"""Where arrays live: a vocabulary (axes), a policy (rules), a mechanism (mesh, place), and the
exchange of tokens between experts. The package depends on no model: its user hands the vocabulary
in.
"""
