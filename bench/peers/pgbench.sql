-- What one callback about a new call changes in the program's own tables, as one statement; for pgbench.
\set duration 0
\set send_status 5
\set sent_result 0
WITH callback AS (
  SELECT gen_random_uuid() AS id, gen_random_uuid()::text AS reference_id, clock_timestamp() AS at
), history AS (
  INSERT INTO status_reports (id, reference_id, source, received_at, effect, call_duration, send_status, sent_result,
    price, cid, payload, remote_addr)
  SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(replace(id::text, '-', ''), 14))
      ::uuid, reference_id, 'callback', at, 'settled', :duration, :send_status, :sent_result, 0.0000, '02871002454',
    '{"ReferenceId": "' || reference_id || '", "CallDuration": "0", "CallStatus": "", "Ivr": "", "Price": "0.0000", '
      || '"SentResult": "0", "CID": "02871002454", "SendStatus": "5"}', '127.0.0.1'
  FROM callback
)
INSERT INTO calls (reference_id, call_duration, send_status, sent_result, price, cid, placed_at, registered_fields,
  callback_at, settled_at, settled_by, last_reported_at, report_count, created_at, updated_at)
SELECT reference_id, :duration, :send_status, :sent_result, 0.0000, '02871002454', at, NULL, at, at, 'callback', at, 1,
  at, at
FROM callback
ON CONFLICT (reference_id) DO UPDATE SET call_duration = excluded.call_duration, send_status = excluded.send_status,
  sent_result = excluded.sent_result, price = excluded.price, cid = excluded.cid,
  callback_at = coalesce(calls.callback_at, excluded.callback_at),
  settled_at = coalesce(calls.settled_at, excluded.settled_at), last_reported_at = excluded.last_reported_at,
  report_count = calls.report_count + 1, updated_at = excluded.updated_at;
