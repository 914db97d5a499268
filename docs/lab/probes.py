"""Traversals of the study of graph against clusters: as many clusters as their names say."""

from vstore.lab.walks import Clusters

clusters_8 = Clusters(n_probe=8)
clusters_16 = Clusters(n_probe=16)
clusters_32 = Clusters(n_probe=32)
