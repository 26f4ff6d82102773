"""The processes of docker-compose.yml without docker: PostgreSQL, Prefect, Dask and an S3 server on this machine's loopback."""
