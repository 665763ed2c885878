-- Whether some partition has the month already, under whatever name; the default partition counts.
SELECT COUNT(*)
FROM pg_catalog.pg_inherits h
JOIN pg_catalog.pg_class p ON p.oid = h.inhrelid
WHERE h.inhparent = {target_text}::regclass
  AND (
    pg_get_expr(p.relpartbound, p.oid) = 'DEFAULT'
    OR (
      substring(pg_get_expr(p.relpartbound, p.oid) FROM 'FROM \(''([0-9-]+)''\)')::date <= {from_day}::date
      AND substring(pg_get_expr(p.relpartbound, p.oid) FROM 'TO \(''([0-9-]+)''\)')::date >= {to_day}::date
    )
  );
