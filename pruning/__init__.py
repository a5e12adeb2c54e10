"""Find out how far a network can be pruned, and get the pruned network (Han et al. 2015, arXiv 1506.02626)."""
