"""`twinlens up`: a whole service on one machine."""
