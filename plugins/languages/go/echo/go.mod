module echo

go 1.25

// `alphorn build` puts it there.
require alphorn v0.0.0
replace alphorn => ./build/alphorn/go
