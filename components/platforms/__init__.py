"""Where the cluster's parts are put: a package a platform, each with the same five operations.

`store` makes what keeps sessions, `database` what keeps the data, `migrate` changes its tables for a release,
`instances` brings a release into service, `site` puts nginx before it.
"""
