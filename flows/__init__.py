"""What happens over time: one Prefect flow a file, named by its verb."""
