"""Reports: one self-contained page per experiment, its figures as SVG and PDF, its numbers as CSV and parquet."""
