"""Reports of experiments: one self-contained page per experiment, with figures as SVG and PDF, and tables as CSV and parquet."""
