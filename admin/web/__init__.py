"""The dashboard: server-rendered pages over `admin.service`."""
