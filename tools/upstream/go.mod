// What the checks read of upstream as text: manifests, CRDs, a chart, schemas. Their versions are in versions.yaml, go.sum
// has their digests (`make charts`); nothing is imported, so leave `go mod tidy` alone here.
module trainyard/tools/upstream

go 1.26.0
