"""What people read about runs: pages, and later logs, metrics, traces and the audit trail."""
