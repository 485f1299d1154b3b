//! Backups against hostile archives, writers that do not wait, and cuts in the middle.
