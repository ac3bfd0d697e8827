"""From volumes to probabilities: the au-net, its training, its predictions and how uncertain they are."""
