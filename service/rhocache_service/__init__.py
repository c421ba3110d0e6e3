"""The job API: takes scoring jobs over REST and runs them as drivers in a Ray cluster."""
