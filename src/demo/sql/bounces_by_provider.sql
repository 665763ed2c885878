-- What bounced, and why: every bounce has a category, and names the rule that said so.
SELECT provider, bounce_category, bounce_reason, bounce_class, count(*) AS bounces
FROM bounces
GROUP BY provider, bounce_category, bounce_reason, bounce_class
ORDER BY provider, bounces DESC, bounce_reason
