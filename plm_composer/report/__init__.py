"""The report: a page of HTML that shows one run, or compares several."""
