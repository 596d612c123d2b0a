//! AES-256-XTS over a run of sectors.
