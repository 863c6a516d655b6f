-- Nothing: files_by_metadata, of the whole, is there since 0002. SQLite makes a table of terms here.
SELECT 1;
