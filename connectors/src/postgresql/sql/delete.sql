DELETE FROM {target} AS held USING {stage} AS staged
WHERE held.event_id = staged.event_id AND held.event_date = staged.event_date
  AND held.event_date BETWEEN {first_day} AND {last_day};
