"""Files to bundles: rule files, dashboards, prometheus.yml, and folders of them, ours or somebody else's."""

from __future__ import annotations

from monitorgen.readers.dashboards import read_dashboard
from monitorgen.readers.folder import read_files, read_folder
from monitorgen.readers.rules import read_rules
from monitorgen.readers.scrapes import read_scrape_jobs

__all__ = ["read_dashboard", "read_files", "read_folder", "read_rules", "read_scrape_jobs"]
