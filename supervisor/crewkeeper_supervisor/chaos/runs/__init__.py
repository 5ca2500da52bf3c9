"""Made-up runs that detectors are measured on: words, pen, runs with loops, healthy runs that look alike."""
