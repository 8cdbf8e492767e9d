"""Accesses told to the site's audit repository: DICOM audit messages (PS3.15 A.5) over syslog."""
