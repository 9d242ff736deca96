"""What trained networks are asked: exits, calibration, difficulty, speed."""
