output "row" {
  description = "The size's row of the table in the README, without its name."
  value       = join(" | ", local.columns)
}

output "month" {
  description = "Dollars a month: with the nodes that are busy on average, and with all at their most, on demand."
  value       = { busy = local.busy_total, max = local.max_total, busy_gpus = local.gpus }
}
