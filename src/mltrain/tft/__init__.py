"""A Temporal Fusion Transformer (Lim et al. 2019, arXiv 1912.09363) that scores windows of consecutive candles."""
