"""Data only: what others have published, and in the repository the trials and tables that README quotes."""
