"""What learning.py and report.py are made of: the suites, their cells, and the records of finished runs."""
