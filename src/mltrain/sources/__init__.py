"""Where candles come from: exchanges, archives, folders of files, a simulated market."""
