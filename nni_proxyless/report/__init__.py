"""Reports: find finished runs, time their networks side by side, and write a table, a page and a CSV."""
