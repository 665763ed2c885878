SELECT DISTINCT to_char(date_trunc('month', event_date), 'YYYY_MM'),
  date_trunc('month', event_date)::date,
  (date_trunc('month', event_date) + interval '1 month')::date
FROM {stage}
ORDER BY 2;
