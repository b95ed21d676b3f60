"""Where arrays live: a vocabulary (axes), a policy (rules), and a mechanism (mesh, place,
exchange). It knows no model."""
