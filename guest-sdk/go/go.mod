module alphorn

go 1.25
