"""The processes of the mesh, one folder each. Nothing imports from here."""
